/* The C API from C: plain BUNDLE [SAM_BUNDLE]. Labels a grey image, once at once and once through the queue, and asks
 * the SAM for the masks of twenty points. */
#include <clouds/clouds.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void done(void* context, clouds_status status, const char* message, const char* hint) {
  if (status != CLOUDS_OK) fprintf(stderr, "%s: %s\n", message, hint);
  *(int*)context = (int)status;
}

static int use_sam(const char* bundle) {
  static const uint8_t grey[60 * 50 * 3] = {0};
  const clouds_image image = {grey, 60, 50, 0, CLOUDS_RGB};
  double points[20 * 2];
  int labels[20], i, side;
  clouds_sam* sam = NULL;
  clouds_embedding* seen = NULL;
  float *logits, iou[20 * 3];
  uint8_t pixels[60 * 50];
  clouds_map mask = {NULL, 60, 50, 0};
  clouds_status status = clouds_sam_open(bundle, NULL, &sam);
  mask.data = pixels;
  for (i = 0; i < 20; ++i) {
    points[2 * i] = i;
    points[2 * i + 1] = 2 * i;
    labels[i] = i % 2;
  }
  clouds_sam_size(sam, NULL, &side);
  logits = malloc(sizeof(float) * 20 * 3 * (size_t)side * (size_t)side);
  if (status == CLOUDS_OK) status = clouds_sam_embed(sam, &image, &seen);
  if (status == CLOUDS_OK) status = clouds_sam_prompt(sam, seen, points, labels, 20, 1, logits, iou);
  if (status == CLOUDS_OK) status = clouds_sam_mask(sam, seen, logits, &mask);
  if (status != CLOUDS_OK) fprintf(stderr, "error: %s\n  fix: %s\n", clouds_message(), clouds_hint());
  free(logits);
  clouds_embedding_free(seen);
  clouds_sam_close(sam);
  return status == CLOUDS_OK ? 0 : 1;
}

int main(int argc, char** argv) {
  clouds_segmenter* segmenter = NULL;
  clouds_image image = {NULL, 0, 0, 0, CLOUDS_RGB};
  clouds_map first = {NULL, 0, 0, 0}, second = {NULL, 0, 0, 0};
  int status = -1, equal;
  size_t pixels;
  if (argc < 2) return 2;
  if (clouds_segmenter_open(argv[1], NULL, &segmenter) != CLOUDS_OK) {
    fprintf(stderr, "error: %s\n  fix: %s\n", clouds_message(), clouds_hint());
    return 1;
  }
  clouds_segmenter_size(segmenter, &image.height, &image.width);
  pixels = (size_t)image.height * (size_t)image.width;
  image.data = memset(malloc(3 * pixels), 128, 3 * pixels);
  first.height = second.height = image.height;
  first.width = second.width = image.width;
  first.data = malloc(pixels);
  second.data = malloc(pixels);
  if (clouds_segment(segmenter, &image, &first, NULL, 1) != CLOUDS_OK) return 1;
  if (clouds_submit(segmenter, &image, &second, NULL, done, &status) != CLOUDS_OK) return 1;
  clouds_segmenter_close(segmenter); /* waits */
  equal = memcmp(first.data, second.data, pixels) == 0;
  printf("clouds %s: %s\n", clouds_version(), status == CLOUDS_OK && equal ? "ok" : "FAILED");
  free((void*)image.data);
  free(first.data);
  free(second.data);
  if (status != CLOUDS_OK || !equal) return 1;
  return argc > 2 ? use_sam(argv[2]) : 0;
}
