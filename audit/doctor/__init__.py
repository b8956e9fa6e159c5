"""What a machine has and lacks for delaudit, and how to get it; needs click alone, and no probe can end it."""
