from loopback.fixture import azure, azure_cloud, workspace

__all__ = ["azure", "azure_cloud", "workspace"]
