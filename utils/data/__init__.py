"""From files to batches: loading, folders of images, recordings of event cameras."""
