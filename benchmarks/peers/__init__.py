"""The servers that gluonseg is measured beside: their environments, and what runs in them."""
