"""A chat template compiled, a shape of chats at a time: the fast path."""
