"""Two services on one journal folder, restarted again and again before a faulty provider, must lose nothing."""
