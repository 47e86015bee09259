"""`carpool run`: a file of requests in, a file of answers out, however often it is stopped on the way."""
