"""Elastic scaling: one policy for workers on one machine, for Kubernetes' manifests, and for their simulation."""
