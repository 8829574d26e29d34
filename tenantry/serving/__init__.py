"""What the product's own app calls for a tenant: answers now, answers later, and answers given
before."""
