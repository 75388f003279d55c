-- What the acting reconciler says of the fleet, and what one that does not stay leaves for its next visit.
-- ARGV: holder, epoch, status, memory (may be left out). Returns 1, or 0 when it does not hold the lock any more.
if not holds_lock(ARGV[2], ARGV[3], clock()) then return 0 end
redis.call('SET', P .. 'fleet:status', ARGV[4])
if ARGV[5] then redis.call('SET', P .. 'fleet:memory', ARGV[5]) end
return 1
