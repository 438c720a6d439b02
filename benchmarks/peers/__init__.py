"""What gluonseg is measured beside: programs to compare, their environments, and what runs in them."""
