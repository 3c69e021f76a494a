"""Looking inside: the visual dictionary as pictures, and the report as one HTML file."""
