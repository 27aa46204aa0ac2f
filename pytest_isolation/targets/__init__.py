"""What is tested: an application behind a socket, and the clients with which users reach it."""
