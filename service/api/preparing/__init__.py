"""What is prepared before visits come: template sets, announcements of next visits."""
