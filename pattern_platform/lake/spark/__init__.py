"""Frames of Spark Connect: the files of a table are made and read by a Spark server, and committed by the platform.

Nothing here is imported before a Spark frame is returned or asked for.
"""
