"""Chats as services, apps and sets hold them: each becomes messages with role and content."""
