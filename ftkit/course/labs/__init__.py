"""What each lab asks, a module a lab, as `course.lessons` does for the lessons."""
