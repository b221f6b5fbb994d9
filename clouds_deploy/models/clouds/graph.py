"""Deployed form of the segmenter: bytes in, labels out.

Normalisation and argmax are part of the network, so that no program, in any language, needs a copy of the
preprocessing. This module is exported, and the exported graph is compared with it.
"""

from __future__ import annotations

from torch import Tensor, nn, uint8

from clouds_deploy.models.clouds.names import SHARE, VOCABULARY
from clouds_deploy.models.clouds.scores import Inference, class_scores
from clouds_deploy.models.clouds.segmenter import STRIDE, Segmenter


class SegmenterGraph(nn.Module):
    """A segmenter with the inputs and outputs of the graph.

    The first operation is the cast to float, before any transpose, and the labels' last two are casts from
    integers to float and from float to uint8, exact for 0..255. The TensorRT family accepts uint8 at a
    graph's edge only next to a cast, and documents that one between uint8 and float32 or float16 only.

    Args:
        segmenter: The trained model, in evaluation mode.
        inference: As in `Segmenter.scores`.
        scores: Whether to return the class scores too.
    """

    def __init__(self, segmenter: Segmenter, *, inference: Inference = "exact", scores: bool = False) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.inference: Inference = inference
        self.scores = scores
        self.eval()

    def extra_inputs(self) -> dict[str, Tensor]:
        """Inputs besides the image, by name, with the values of the training.

        Returns:
            Nothing for the linear head; for the text head `vocabulary` (C, S, D) and, with the geometric
            ensemble, `class_share` (C,).
        """
        segmenter = self.segmenter
        if segmenter.vocabulary is None:
            return {}
        # copies: the exporter would treat a buffer's own tensor as a constant
        vocabulary = segmenter.vocabulary.clone()
        if segmenter.ensemble is None:
            return {VOCABULARY: vocabulary}
        return {VOCABULARY: vocabulary, SHARE: segmenter.ensemble.share.clone()}

    def forward(
        self, image: Tensor, vocabulary: Tensor | None = None, share: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Label maps of images.

        Args:
            image: (B, H, W, 3) uint8 RGB; H and W multiples of 32.
            vocabulary: (C, S, D) unit vectors of the classes' names, text head only; None means those of
                the training.
            share: (C,) 0..1, CLIP's share for each class, geometric ensemble only.

        Returns:
            labels (B, H, W) uint8 train ids (or indices of the vocabulary) and, on request, scores
            (B, C, H/4, W/4) float32, C the number of classes: for every class the sum over queries
             of softmax(class) * sigmoid(mask), at the masks' own size.
        """
        pixels = image.float().permute(0, 3, 1, 2)
        height, width = int(image.shape[1]), int(image.shape[2])
        assert height % STRIDE == 0
        assert width % STRIDE == 0
        prediction = self.segmenter(pixels, every_layer=False, vocabulary=vocabulary, share=share)[-1]
        full = class_scores(prediction, (height, width), self.inference)
        labels = full.argmax(dim=1).float().to(uint8)
        if not self.scores:
            return (labels,)
        quarter = class_scores(prediction, (height // 4, width // 4), "exact")
        return labels, quarter
