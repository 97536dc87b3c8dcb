"""An account with limits: llmock holds it and writes down what it decides; ours spends from it."""
