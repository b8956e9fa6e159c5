"""The models a run needs: the causal LM behind the server and the sentence encoder behind coherence."""
