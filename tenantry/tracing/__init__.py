"""One trace from a tenant's upload to its predictions: OpenTelemetry's spans, and W3C's trace
context in the rows between them."""
