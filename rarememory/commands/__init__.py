"""Commands with a file of their own, and how every command speaks."""
