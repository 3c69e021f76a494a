"""The room of the loop: recipe, optimizers, trainer, checkpoints, tracking. It knows no task and no data set.

Start with `trainer.Trainer.fit`; `optimizer_step.OptimizerStep.run` is what it repeats.
"""
