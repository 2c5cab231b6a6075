"""Items of the Agents SDKs, as they are posted and as webhooks carry them."""
