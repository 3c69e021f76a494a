/* Greedy non-maximum suppression of boxes in the order of their scores; compiled by benchmarks/nms.py. */

static float overlap(const float *a, const float *b) {
    float left = a[0] > b[0] ? a[0] : b[0], top = a[1] > b[1] ? a[1] : b[1];
    float right = a[2] < b[2] ? a[2] : b[2], bottom = a[3] < b[3] ? a[3] : b[3];
    float width = right - left, height = bottom - top;
    if (width <= 0.0f || height <= 0.0f) return 0.0f;
    float shared = width * height;
    float first = (a[2] - a[0]) * (a[3] - a[1]), second = (b[2] - b[0]) * (b[3] - b[1]);
    return shared / (first + second - shared);
}

/* boxes (count, 4) x1 y1 x2 y2; order: indices by falling score; gone: count zeros, scratch; kept: room for count
   indices. Returns how many boxes are kept, at most `most`. */
int suppress(const float *boxes, const long long *order, int count, float threshold, int most,
             unsigned char *gone, long long *kept) {
    int number = 0;
    for (int i = 0; i < count && number < most; i++) {
        if (gone[i]) continue;
        const float *box = boxes + 4 * order[i];
        kept[number++] = order[i];
        for (int j = i + 1; j < count; j++)
            if (!gone[j] && overlap(box, boxes + 4 * order[j]) > threshold) gone[j] = 1;
    }
    return number;
}
