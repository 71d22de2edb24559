"""What each number of an evaluation means, for people who meet it for the first time."""

MEANINGS = {
    "known_cell_accuracy": "Of the cells whose place in the world was seen earlier in the episode, the share "
    "predicted right.",
    "known_frame_exact": "Share of next frames in which every such cell is right.",
    "remembered_cell_accuracy": "Of the cells last seen 5 to 30 steps ago, the share right.",
    "changed_cell_accuracy": "Of the cells that look otherwise than when last seen, the share right.",
    "revealed_cell_accuracy": "Of the cells seen for the first time, the share right: nobody can know them, "
    "guessing what is most common is the best there is.",
    "revealed_nll": "Nats a cell seen for the first time: how surprised the model is.",
    "revealed_nll_prior": "The same of the empirical prior, counted in training episodes of the level by place in the "
    "view.",
    "revealed_nll_gain": "Their difference: above 0 the model guesses better than the prior.",
    "cell_accuracy": "Share of all cells of the next frame predicted right.",
    "frame_exact": "Share of next frames right in every cell, the unknowable ones included.",
    "direction_accuracy": "Share of steps with the right heading.",
    "forward_nll": "Nats a step of outcome, heading and cells, all filled at once from past and action.",
    "outcome_f1": "F1 of predicting that a step ends the episode in success.",
    "outcome_precision": "Of the predicted successes, the share that are.",
    "outcome_recall": "Of the successes, the share predicted.",
    "success_probability": "Mean P(success) where an episode succeeds.",
    "success_probability_swapped": "The same when the mission is swapped for one that names other objects: it should "
    "be near 0.",
    "success_probability_near_miss": "Mean P(success) of steps that look like a success of their level and are none: "
    "the same action, kind of thing in front and in hand. It should be near 0.",
    "swap_falls": "Share of successes whose probability the other mission at least halves.",
    "ece": "Expected calibration error of the probabilities of all cells: 0.02 means they are off by 2 points on "
    "average. Most cells are certain, so a small value is easily had.",
    "ece_revealed": "The same of the cells seen for the first time, where the model has to guess.",
    "ece_outcome": "The same of the outcome said for a step; most steps end nothing.",
    "action_accuracy": "Share of the bot's choices that the model's policy makes too.",
    "inverse_accuracy": "Share of actions told right from what came before and after.",
    "inverse_accuracy_changed": "The same where something changed; a vain pick-up and a bump look alike.",
    "inverse_bayes_changed": "The same by Bayes' rule, in seven passes: the action after which the model holds the "
    "step to be likeliest.",
    "goal_accuracy": "Told that it succeeds in h = 1, 2, 4 or 8 steps: share of plans whose first action is the bot's; "
    "other ways may be as short.",
    "belief_accuracy": "Of the cells of the newest frame hidden at random (30 %), the share filled in right.",
    "nll_per_step": "Upper bound on -log p of a whole step (action, outcome, heading, 49 cells) given its past, in "
    "nats, from two random orders a step weighted L/l; the targets were hidden from the model.",
    "dynamics_per_step": "The part of that bound without the action.",
    "chain_nll_per_step": "-log p of a whole step by the chain rule in one fixed order, token after token.",
    "chain_dynamics_per_step": "The part of it without the action.",
}
