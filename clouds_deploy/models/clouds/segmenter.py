"""The CLOUDS segmenter: frozen backbone, pixel decoder, mask decoder, and class scores per pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.config.model import BackboneConfig, ModelConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CITYSCAPES, NUM_CLASSES, LabelSet
from clouds_deploy.models.backbones import Backbone, Features, build_backbone
from clouds_deploy.models.backbones.open_clip import PREFIX as CLIP_PREFIX
from clouds_deploy.models.backbones.open_clip import clip_backbone, clip_tokenizer, load_clip
from clouds_deploy.models.clouds.adapters import attach
from clouds_deploy.models.clouds.classifiers import TextClassifier
from clouds_deploy.models.clouds.clip_head import GeometricEnsemble
from clouds_deploy.models.clouds.deformable_attention import DeformableAttention, Form
from clouds_deploy.models.clouds.mask_decoder import MaskDecoder, Prediction
from clouds_deploy.models.clouds.pixel_decoder import PixelDecoder
from clouds_deploy.models.clouds.scores import Inference, Scores, class_scores, class_shares
from clouds_deploy.models.clouds.vocabulary import embed_vocabulary

STRIDE = 32


class Segmenter(nn.Module):
    """Mask classification on a foundation model (docs/explanation/method.md 2).

    Args:
        config: The model section of a recipe.
        backbone: The backbone that section names, already loaded.
        vocabulary: (C, S, D) class embeddings, for the text head; see `models.clouds.vocabulary`.
        ensemble: With CLIP's own classification at inference, for the text head.
        classes: Number of classes; with the text head the vocabulary's.
    """

    vocabulary: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        backbone: Backbone,
        vocabulary: Tensor | None = None,
        ensemble: GeometricEnsemble | None = None,
        classes: int = NUM_CLASSES,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.ensemble = ensemble
        self.pixel_decoder = PixelDecoder(backbone.channels, config.width, config.pixel_decoder)
        classifier = None if vocabulary is None else TextClassifier(config.width, vocabulary.shape[-1])
        self.mask_decoder = MaskDecoder(config.width, classes, config.mask_decoder, classifier)
        self.register_buffer("vocabulary", vocabulary)

    def features(self, image: Tensor) -> Features:
        """Normalises, pads right and bottom with zeros to multiples of 32, and runs the backbone.

        Args:
            image: (B, 3, H, W) RGB float, 0..255.

        Returns:
            Maps at strides 4, 8, 16, 32 of the padded size.
        """
        normal = self.backbone.normalize(image)
        height, width = image.shape[-2:]
        pad = (-height % STRIDE, -width % STRIDE)
        if any(pad):
            normal = F.pad(normal, (0, pad[1], 0, pad[0]))
        return self.backbone(normal)  # type: ignore[no-any-return]

    def forward(
        self,
        image: Tensor,
        *,
        every_layer: bool = True,
        vocabulary: Tensor | None = None,
        share: Tensor | None = None,
    ) -> tuple[Prediction, ...]:
        """Predicts segments.

        Args:
            image: (B, 3, H, W) RGB float, 0..255; any H and W (padded to multiples of 32 inside).
            every_layer: As in `MaskDecoder.forward`; False is inference, with the ensemble.
            vocabulary: (C, S, D), text head: other classes than those it was trained with.
            share: (C,) as in `GeometricEnsemble.forward`, for such a vocabulary.

        Returns:
            Predictions at a quarter of the padded size.
        """
        features = self.features(image)
        vocabulary = self.vocabulary if vocabulary is None else vocabulary
        predictions = self.head(*features, every_layer=every_layer, vocabulary=vocabulary)
        if self.ensemble is None or every_layer or vocabulary is None:
            return predictions
        last = predictions[-1]
        mixed = self.ensemble(last.class_logits, last.mask_logits, features[3], vocabulary, share)
        return (Prediction(mixed, last.mask_logits),)

    def head(
        self,
        res2: Tensor,
        res3: Tensor,
        res4: Tensor,
        res5: Tensor,
        *,
        every_layer: bool = False,
        vocabulary: Tensor | None = None,
    ) -> tuple[Prediction, ...]:
        """Runs both decoders on feature maps from `Backbone.forward`."""
        mask_features, maps = self.pixel_decoder((res2, res3, res4, res5))
        return self.mask_decoder(  # type: ignore[no-any-return]
            mask_features, maps, every_layer=every_layer, vocabulary=vocabulary
        )

    def scores(
        self,
        image: Tensor,
        inference: Inference = "exact",
        vocabulary: Tensor | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        """Scores of every class at every pixel (docs/explanation/method.md 5).

        score[c] = sum over queries of softmax(class)[c] * sigmoid(mask).

        Args:
            image: (B, 3, H, W) RGB, 0..255.
            inference: `exact` resizes the Q masks before the sum, as the authors do; `fast` sums at a
                quarter of the size and resizes the sums.
            vocabulary: As in `forward`.
            share: As in `forward`.

        Returns:
            (B, C, H, W) float, not negative; argmax over axis 1 is the label map. C is the number of classes.
        """
        prediction = self(image.float(), every_layer=False, vocabulary=vocabulary, share=share)[-1]
        height, width = image.shape[-2:]
        padded = (height + -height % STRIDE, width + -width % STRIDE)
        return class_scores(prediction, padded, inference)[:, :, :height, :width]

    def lazy_scores(self, image: Tensor) -> Scores:
        """The scores of `scores(image, "exact")`, each strip computed when it is asked for.

        Args:
            image: (B, 3, H, W) RGB, 0..255.
        """
        prediction = self(image.float(), every_layer=False)[-1]
        height, width = image.shape[-2:]
        return Scores(class_shares(prediction), prediction.mask_logits.float(), (height, width))

    def set_form(self, form: Form) -> Segmenter:
        """Sets the form of deformable attention; all forms give the same results."""
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.form = form
        return self

    def trainable_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def build_segmenter(config: ModelConfig, classes: LabelSet = CITYSCAPES) -> Segmenter:
    """Builds the model a recipe describes; the decoders start random, the backbone with its weights.

    Args:
        config: The model section of the recipe.
        classes: Its label set, `data.classes`.

    Raises:
        CloudsError: See `build_backbone` and `load_clip`; or the text head has no CLIP to take names from.
    """
    if config.head == "linear":
        return Segmenter(config, build_backbone(config.backbone), classes=classes.count)
    return _text_segmenter(config, classes)


def embed_names(config: ModelConfig, classes: Sequence[Sequence[str]]) -> Tensor:
    """Embeds other class names as a recipe's text tower does, for a deployed vocabulary.

    Args:
        config: The model section of a run's recipe.
        classes: For each class its synonyms.

    Returns:
        (C, S, D) float32 unit vectors.

    Raises:
        CloudsError: The head is linear; the tower's weights are random, and so different each time; see
            `load_clip` and `embed_vocabulary`.
    """
    if config.head != "text":
        raise CloudsError("the linear head's classes are fixed", "train a recipe with model.head=text")
    source = _names_from(config)
    if source.weights == "random":
        raise CloudsError(
            "the run's text tower had random weights: newly embedded names would not fit it",
            "use a run with real CLIP weights",
        )
    return embed_vocabulary(load_clip(source).model, clip_tokenizer(source), classes)


def _names_from(config: ModelConfig) -> BackboneConfig:
    """CLIP that embeds the class names: the backbone's, unless the recipe names another."""
    text = config.text
    own = text.clip is None or text.clip == config.backbone.name
    source = (
        config.backbone
        if own
        else BackboneConfig(name=str(text.clip), weights=text.weights, options=text.options)
    )
    if not source.name.startswith(CLIP_PREFIX):
        raise CloudsError(
            f"the text head has no CLIP to take names from: `{source.name}` is not one",
            "set model.text.clip=open_clip/<model>",
        )
    return source


def _text_segmenter(config: ModelConfig, classes: LabelSet) -> Segmenter:
    """Builds the text head's model, with one CLIP for pictures and names where both are the same."""
    text = config.text
    source = _names_from(config)
    own = source == config.backbone
    clip = load_clip(source)
    vocabulary = embed_vocabulary(clip.model, clip_tokenizer(source), classes.synonyms)
    if own:
        backbone = attach(clip_backbone(config.backbone, clip), config.backbone.adapter)
    else:
        backbone = build_backbone(config.backbone)
    ensemble = None
    if text.ensemble:
        if not own:
            raise CloudsError(
                "the geometric ensemble needs the text's CLIP as backbone", "set model.text.ensemble=false"
            )
        seen = torch.ones(len(vocabulary), dtype=torch.bool)
        ensemble = GeometricEnsemble(clip.model, seen, text.alpha, text.beta, only_valid=text.only_valid)
    return Segmenter(config, backbone, vocabulary, ensemble, classes.count)
