"""A tenant's versions, its champion, and the archives they lie in."""
