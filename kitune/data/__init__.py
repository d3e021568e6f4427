"""From a file or a frame to token ids: read, choose columns, split, encode, plan batches."""
