"""The calls of the product's app for a tenant: answers now, answers later, and answers given
before."""
