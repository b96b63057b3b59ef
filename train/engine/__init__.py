"""The exact gradient over windows in constant memory."""
