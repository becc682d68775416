"""A distribution of Amazon CloudFront: invalidations by path.

Source: Amazon CloudFront API Reference, CreateInvalidation; Developer Guide, "Invalidate files": 15 paths with a
wildcard at a time, which stands at the end of a path.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from lb.cache.tags import model_of, url_of
from lb.config.schema.purge import CloudFrontConfig
from lb.control.cache.cdn import CdnError
from lb.platforms.aws import Aws
from lb.platforms.error import PlatformError

_WILDCARDS = 15  # under way at a time


class CloudFront:
    """The paths of a model; of a URL its own; of what is of neither, all below. Nothing is asked about how far an
    invalidation is: one that is too many is refused, and tried again later."""

    name = "CloudFront"
    most = 10_000  # many tags have one path

    def __init__(self, options: CloudFrontConfig) -> None:
        self._options = options
        self._aws = Aws(options)

    async def purge(self, tags: Sequence[str]) -> None:
        """Raises CdnError."""
        paths = paths_of(tags, self._options.paths)
        try:
            await self._aws.call(
                "cloudfront",
                "create_invalidation",
                DistributionId=self._options.distribution,
                InvalidationBatch={
                    "Paths": {"Quantity": len(paths), "Items": paths},
                    "CallerReference": f"tidegate-{uuid.uuid4()}",
                },
            )
        except PlatformError as error:
            raise CdnError(str(error)) from None

    async def close(self) -> None:
        await self._aws.close()


def paths_of(tags: Sequence[str], templates: Sequence[str]) -> list[str]:
    """What has the answers that carry one of the tags. More models than CloudFront takes at a time are all models."""
    urls = {tag: f"/{url.partition('/')[2]}" for tag in tags if (url := url_of(tag)) is not None}
    models = dict.fromkeys(model_of(tag) for tag in tags if tag not in urls)
    if None in models or len(models) * len(templates) > _WILDCARDS:
        named = [_above(template) for template in templates]
    else:
        named = [t.replace("{model}", m) for m in models if m is not None for t in templates]
    return list(dict.fromkeys([*named, *urls.values()]))


def _above(template: str) -> str:
    head, placeholder, _ = template.partition("{model}")
    return f"{head}*" if placeholder else template
