"""An Azure on this machine: Machine Learning, blob storage, Key Vault and managed identity, over real HTTPS.

The unmodified SDKs speak to it. What it proves is the client's half: requests, uploads, polling, retries and the
command that a job runs, since the compute really runs it. It does not prove that the service itself accepts them.
"""
