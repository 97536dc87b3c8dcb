"""What takes requests in, ours and others, each a process; and the clients that ask all of them alike."""
