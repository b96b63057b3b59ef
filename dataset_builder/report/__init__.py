"""What a run tells of itself: status, statistics, charts, gallery, card."""
