"""From a picture to class probabilities: preprocessing, engines, the predictor."""
