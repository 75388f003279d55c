-- What the acting reconciler says of the fleet. ARGV: holder, epoch, status. Returns 1, or 0 when it acts no more.
if not acts(ARGV[2], ARGV[3], clock()) then return 0 end
redis.call('SET', P .. 'fleet:status', ARGV[4])
return 1
