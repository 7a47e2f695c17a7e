"""Many runs side by side: found, compared, shown; nothing here needs torch."""
