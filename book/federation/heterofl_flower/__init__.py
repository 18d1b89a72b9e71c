"""HeteroFL as a real federation: the update arithmetic is the core's, only the transport is Flower's."""
