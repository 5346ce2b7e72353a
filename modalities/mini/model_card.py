"""The README that lies beside the weights of an edition of the embedded base."""

from typing import Any

_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# mini, edition {edition}

A text-to-image model of 64 x 64 pixels in the format of `StableDiffusionPipeline`, trained from nothing by
`pcs base build mini` on rendered scenes: fifteen classes of solid things with continuous identity, twelve
contexts, any viewpoint. No photo, no third-party weights and no scraped text went into it.

It exists so that every method can be run, tested and measured against truth on a plain CPU in minutes. It
knows nothing but its own small world and is no substitute for a large base.

| part | folder | what |
|---|---|---|
| base | `vae` `text_encoder` `tokenizer` `unet` `scheduler` | {prediction}, latents 16 x 16 x 4 |
| likeness of individuals | `subject_encoder` | ResNetModel, pooled features |
| picture against words | `clip` | CLIPModel |
| judge of drawings | `probe` | reads class, context, colours, pattern, view |

Trained with {steps} steps of {batch} ({samples} samples), seed {seed}; {megabytes} MB in half precision.
`build.json` holds the whole recipe.

![Drawings](samples.png)

*Compositions that no training picture showed, nothing picked. First in each row: how the world renders it.*

## Measured

{pictures} drawings of compositions that no training picture showed, {sampler_steps} sampler steps, guidance
{guidance}, one seed each, judged by the probe; beside it the probe's own accuracy on true renders of the same
scenes, which is the ceiling.

| | drawn | probe on renders |
|---|---|---|
{rows}

- autoencoder: {psnr:.1f} dB peak signal-to-noise ratio on renders of those compositions
- likeness of individuals: area under the curve {auc_all:.3f} over all pairs, {auc_class:.3f} within a class
  (held-out individuals, other contexts and views)
- picture against words: the right caption of {among} is found for {retrieval:.1%} of held-out renders
"""


def model_card(facts: dict[str, Any]) -> str:
    """The README (Markdown) of a base whose `build.json` holds `facts`."""
    measured, recipe = facts["measured"], facts["recipe"]
    drawn, ceiling = measured["drawn"], measured["probe_on_renders"]
    rows = [f"| {name.replace('_', ' ')} | {drawn[name]:.2f} | {ceiling[name]:.2f} |" for name in drawn]
    return _CARD.format(
        edition=facts["edition"],
        prediction=recipe["denoiser"]["prediction"],
        steps=f"{facts['denoiser_steps']:,}",
        batch=recipe["denoiser"]["batch"],
        samples=f"{facts['denoiser_samples']:,}",
        seed=facts["seed"],
        megabytes=facts["megabytes"],
        pictures=measured["pictures"],
        sampler_steps=measured["steps"],
        guidance=measured["guidance"],
        rows="\n".join(rows),
        psnr=measured["autoencoder_psnr_db"],
        auc_all=measured["identity_auc"]["all_pairs"],
        auc_class=measured["identity_auc"]["same_class_pairs"],
        among=measured["retrieval_among"],
        retrieval=measured["retrieval"],
    )
