"""Routes that turn texts and chats into token ids, and back."""
