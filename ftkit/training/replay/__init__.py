"""Replay: rows of general talk mixed into a training, so that the tuned model still answers other questions (lesson 03).

`talk` lets the base answer prompts of general talk before it is trained; `mix` puts these rows among the task's own.
"""
