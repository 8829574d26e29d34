"""What jobs of several kinds share: their hosts, containers, endings, and folders kept in S3."""
