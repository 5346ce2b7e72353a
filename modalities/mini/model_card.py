"""The README that lies beside the weights of an edition of the embedded base."""

from typing import Any

_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# mini, edition {edition}

A text-to-image and text-to-video model of 64 x 64 pixels in diffusers' formats, trained from nothing by
`pcs base build mini` on rendered scenes: fifteen classes of solid things with continuous identity, twelve
contexts, any viewpoint; four drawing styles, five accessories, pairs of things; ten motions. No photo, no
third-party weights and no scraped text went into it.

It exists so that every method can be run, tested and measured against truth on a plain CPU in minutes. It
knows nothing but its own small world and is no substitute for a large base.

| part | folder | what |
|---|---|---|
| base | `vae` `text_encoder` `tokenizer` `unet` `scheduler` | {prediction}, latents 16 x 16 x 4 |
| likeness of individuals | `subject_encoder` | ResNetModel, pooled features |
| picture against words | `clip` | CLIPModel |
| text to video | `video` | a `TextToVideoSDPipeline`, 8 frames; its UNet is the image UNet with temporal layers |
| judges of drawings | `probe` `motion_probe` | read class, context, colours, pattern, view, style; motion and path |

Trained with {steps} steps of {batch} ({samples} samples), the temporal layers with {video_steps} steps of
{video_batch} clips, seed {seed}; {megabytes} MB in half precision. `build.json` holds the whole recipe.

![Drawings](samples.png)

*Compositions that no training picture showed, nothing picked. First in each row: how the world renders it.*

![Clips](clips.png)

*One clip of each motion, of held-out compositions, nothing picked.*

## Measured

{pictures} drawings of compositions that no training picture showed, {sampler_steps} sampler steps, guidance
{guidance}, one seed each, judged by the probe; beside it the probe's own accuracy on true renders of the same
scenes, which is the ceiling.

| | drawn | probe on renders |
|---|---|---|
{rows}

The same for as many scenes with a style, an accessory, a finish or a second thing:

| | drawn | probe on renders |
|---|---|---|
{varied_rows}

And for {clips} clips. The path is where the subject is seen, from where it starts; its error is in picture widths,
and a subject that stood still would have {still:.3f}.

| | drawn | probe on renders |
|---|---|---|
{clip_rows}

- distance of drawings from renders (KID x 1000 on the probe's features): {kid:.1f}; of other renders: {kid_floor:.1f}
- likeness of neighbouring frames: {smooth:.3f}; of frames that the image UNet draws one by one: {rough:.3f}; of
  rendered clips: {true:.3f}
- autoencoder: {psnr:.1f} dB peak signal-to-noise ratio on renders of those compositions
- likeness of individuals: area under the curve {auc_all:.3f} over all pairs, {auc_class:.3f} within a class
  (held-out individuals, other contexts and views)
- picture against words: the right caption of {among} is found for {retrieval:.1%} of held-out renders
"""


def model_card(facts: dict[str, Any]) -> str:
    """The README (Markdown) of a base whose `build.json` holds `facts`."""
    measured, recipe = facts["measured"], facts["recipe"]
    clips, smooth = measured["drawn_clips"], measured["frame_likeness"]
    return _CARD.format(
        edition=facts["edition"],
        prediction=recipe["denoiser"]["prediction"],
        steps=f"{facts['denoiser_steps']:,}",
        batch=recipe["denoiser"]["batch"],
        samples=f"{facts['denoiser_samples']:,}",
        video_steps=f"{sum(part['steps'] + part['anneal'] for part in (recipe['video'], *recipe['motion_words'])):,}",
        video_batch=recipe["video"]["batch"],
        seed=facts["seed"],
        megabytes=facts["megabytes"],
        pictures=measured["pictures"],
        clips=measured["clips"],
        sampler_steps=measured["steps"],
        guidance=measured["guidance"],
        rows=_rows(measured["drawn"], measured["probe_on_renders"]),
        varied_rows=_rows(measured["drawn_varied"], measured["probe_on_varied_renders"]),
        clip_rows=_rows(
            {name: value for name, value in clips.items() if name != "path_error_if_still"},
            measured["probe_on_rendered_clips"],
        ),
        still=clips["path_error_if_still"],
        kid=measured["kid"]["drawn"],
        kid_floor=measured["kid"]["renders"],
        smooth=smooth["video"],
        rough=smooth["image_net_per_frame"],
        true=smooth["renders"],
        psnr=measured["autoencoder_psnr_db"],
        auc_all=measured["identity_auc"]["all_pairs"],
        auc_class=measured["identity_auc"]["same_class_pairs"],
        among=measured["retrieval_among"],
        retrieval=measured["retrieval"],
    )


def _rows(drawn: dict[str, float], ceiling: dict[str, float]) -> str:
    return "\n".join(f"| {name.replace('_', ' ')} | {drawn[name]:.3f} | {ceiling[name]:.3f} |" for name in drawn)
