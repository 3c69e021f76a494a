"""Numbers: mergeable metrics that know no model, and a pair-scoring engine that knows no data set.

- `metrics`: means, accuracy, recalls of both directions of retrieval with their chance levels, use of codes.
- `vqa_score`: the official VQA accuracy; `reasoning_metrics`: accuracy and consistency of NLVR2.
- `pair_scoring`: all images x texts through the fusion Transformer; `scoring_plan` orders the pairs, `scoring_engine`
  runs them, `token_store` keeps encoded images and texts without padding, `score_matrix` keeps scores through a kill.
- `shortlist`: which pairs a first stage hands on and what is lost by it; `shortlist_scoring` runs both stages.
- `retrieval_protocols`: what is reported of a score matrix; `recompute` does it again from disk.
- `submission`: the file that the VQA server takes.
"""
