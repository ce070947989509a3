//! A message that ends the worker ends among the dead letters.
