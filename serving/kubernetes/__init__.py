"""The files by which a Kubernetes cluster runs a server: `headwaiter deploy export DIR`.

An `installation` says what is wanted; `pod` makes the container and its volumes of it, `base` the objects that every
cluster takes, `monitoring`, `scaling` and `kserve` what needs another operator; `export` puts them into the folders of
Kustomize. Objects are dicts in the form of Kubernetes' API.
"""
