"""From a model and a method to a function: compile, bind what a call is given, give back what it asks for."""
