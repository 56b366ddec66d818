"""The hub's token inside a job: read from a key vault by the node's identity, and given to the worker alone."""

from __future__ import annotations

import os

from picual import _lazy
from picual.errors import EnvironmentFault

VAULT = "PICUAL_KEYVAULT"  # name of the vault, or its address; set by whoever submits the job
SECRET = "hf-token"  # the name that Olive gives it, not a secret


def from_vault() -> dict[str, str]:
    """Return ``HF_TOKEN`` for the worker's environment, or nothing where no vault is named.

    Raises:
        EnvironmentFault: The vault does not give it.
    """
    named = os.environ.get(VAULT)
    if not named:
        return {}
    identity = _lazy.need("azure.identity", extra="azureml", by="the hub's token")
    vaults = _lazy.need("azure.keyvault.secrets", extra="azureml", by="the hub's token")
    from azure.core.exceptions import AzureError

    address = named if "://" in named else f"https://{named}.vault.azure.net"
    client = os.environ.get("DEFAULT_IDENTITY_CLIENT_ID")  # of the compute's own identity, where it has several
    try:
        credential = identity.ManagedIdentityCredential(client_id=client)
        value = vaults.SecretClient(address, credential).get_secret(SECRET).value
    except AzureError as error:
        raise EnvironmentFault(
            f"the key vault `{named}` does not give the secret `{SECRET}` ({type(error).__name__})",
            hint=f"az keyvault secret set --vault-name {named} --name {SECRET} --value ...; the compute's identity"
            " needs the role `Key Vault Secrets User`",
        ) from error
    return {"HF_TOKEN": str(value)}
