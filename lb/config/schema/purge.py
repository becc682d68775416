"""CDNs that are told of purges."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lb.config.schema.base import FilePath, problem, text
from lb.config.schema.pools.platforms import AwsConfig, RareModel, Url


class CloudflareConfig(RareModel):
    """A zone of Cloudflare, which is told the tags of each purge. It knows an answer's tags by its `Cache-Tag`. Needs a
    token with the permission Zone / Cache Purge."""

    zone: Annotated[str, *text(r"[0-9a-f]{32}", "is no zone id of 32 hexadecimal digits")]
    """Id of the zone."""
    token_file: FilePath
    """File with the API token; white space around it does not count. Read anew for each purge."""
    url: Url = "https://api.cloudflare.com/client/v4"
    """URL of the API."""


class CloudFrontConfig(AwsConfig):
    """A distribution of Amazon CloudFront, which is told paths, since it knows no tags. Needs
    `cloudfront:CreateInvalidation`. CloudFront bills paths: [what a purge sends](howto/operate-the-cache.md#cdns)."""

    distribution: Annotated[str, *text(r"[A-Z0-9]{1,64}", "is no id of a distribution")]
    """Id of the distribution."""
    paths: list[Annotated[str, *text(r"/[!-~]*", "is no path that begins with /")]] = Field(
        default=["/v2/models/{model}/*"], min_length=1, max_length=15
    )
    """Paths that have a model's answers, as clients of the CDN ask for them; `{model}` is its name. For a purge of more
    than a model, the path is cut off there and ends with `*`."""


class PurgeConfig(RareModel):
    """CDNs that are told of each purge, also those by a change of models. They are told beside the purge, at most 0.2 s
    later and many tags at once. What fails is tried again, and is a line in the log and
    `tidegate_cdn_purges_total`."""

    cloudflare: CloudflareConfig | None = None
    """A zone of Cloudflare. Default: none."""
    cloudfront: CloudFrontConfig | None = None
    """A distribution of Amazon CloudFront. Default: none."""

    @model_validator(mode="after")
    def _any(self) -> PurgeConfig:
        if self.cloudflare is None and self.cloudfront is None:
            raise problem("purge", "names no CDN: cloudflare or cloudfront")
        return self
