"""What the tests share: batteries (check_*), builders (make_*) and facts (assert_*)."""
