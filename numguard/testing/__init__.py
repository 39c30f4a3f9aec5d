"""What tests of users and of numguard itself build on."""
