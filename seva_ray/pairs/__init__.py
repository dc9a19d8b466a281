"""What makes a pair of answers worth keeping: verdicts, filters, quotas; and where pairs lie."""
