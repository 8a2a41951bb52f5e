"""What a network looks at: maps, and measures of maps. Arrays in, arrays out."""
