"""What makes a pair of answers worth keeping: verdicts, filters and quotas; and where pairs are stored."""
